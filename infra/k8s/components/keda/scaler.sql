-- The database user that KEDA asks its questions as. Once, by the owner of the tables, with a password of your own:
--   psql "$OWNER_URL" --set password=… --file infra/k8s/components/keda/scaler.sql
-- It reads when work is due and whether somebody is at it. Images, verdicts and who sent what are not its business.
CREATE ROLE telltale_scaler LOGIN PASSWORD :'password' CONNECTION LIMIT 12;
ALTER ROLE telltale_scaler SET default_transaction_read_only = on;
ALTER ROLE telltale_scaler SET statement_timeout = '5s';
GRANT SELECT (status, next_attempt_at, lease_until) ON cases TO telltale_scaler;
GRANT SELECT (next_attempt_at, failed_at) ON explanation_requests, rejudgings TO telltale_scaler;
GRANT SELECT (status, lease_until, upkeep_at) ON training_runs TO telltale_scaler;
