"""What threads got from a pool, and whether some order of single steps explains it."""
