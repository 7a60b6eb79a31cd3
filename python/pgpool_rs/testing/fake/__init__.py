"""A server in memory: its connections, its faults and gates, its clock."""
