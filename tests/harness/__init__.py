"""pgpool_rs.testing."""
