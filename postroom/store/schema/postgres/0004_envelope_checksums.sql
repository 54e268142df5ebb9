-- CRC-32 of reverse-path and forward-path as they were accepted, with their content's: an envelope that the disk has altered
-- goes to nobody. NULL: accepted before there was one.
ALTER TABLE delivery ADD COLUMN checksum BIGINT;
