"""Tests of what the proofs rely on."""
