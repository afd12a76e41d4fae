-- system_identifier
-- Made by initdb; a physical copy has the same.
SELECT system_identifier::text FROM pg_control_system()
