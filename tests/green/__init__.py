"""Greenlets."""
