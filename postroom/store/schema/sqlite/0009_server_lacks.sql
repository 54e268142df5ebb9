-- What an account's server offers and does not take (JSON): learnt by one worker, for all.
ALTER TABLE account ADD COLUMN server_lacks TEXT;
