"""The wrapper of a connection to PostGIS."""

from django.contrib.gis.db.backends.postgis import base

from pgpool_rs.django.base import Pooled


class DatabaseWrapper(Pooled, base.DatabaseWrapper):
    """A connection to PostGIS."""
