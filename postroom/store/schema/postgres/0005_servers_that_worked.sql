-- The host of the server that an account has worked with, where nobody has named one and no preset knows the domain: it keeps
-- that. Empty: it worked before this was noted, when every such server was smtp.gmail.com or that of POSTROOM_SMTP_HOST;
-- the first start after the update, which knows the settings, notes which.
ALTER TABLE account ADD COLUMN worked_with TEXT;
UPDATE account SET worked_with = '' WHERE worked_at IS NOT NULL AND host IS NULL;
