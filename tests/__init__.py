"""Tests of the package pgpool_rs."""
