"""Django's PostGIS backend on a pool."""
