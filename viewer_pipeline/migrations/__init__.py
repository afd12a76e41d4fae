"""The schema `viewer`, made by Alembic."""
