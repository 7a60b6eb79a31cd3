"""What the project is developed with: servers, load, trials, the soak, sanitizers. None of it is installed."""
