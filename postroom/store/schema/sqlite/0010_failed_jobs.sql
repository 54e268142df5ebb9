-- Why an account that has never worked fails is what its newest failed message says. Only failed jobs pay for this.
CREATE INDEX job_failed ON job (account_id, id) WHERE state = 'failed';
