-- What is over, by the time of its end: for pruning.
CREATE INDEX job_finished ON job (finished_at, id) WHERE finished_at IS NOT NULL;
CREATE INDEX idempotency_created ON idempotency (created_at);
