"""What the project exists for: the flush protocol. Imports no Dagster, no web and no CLI."""
