"""The parts of a run's page, index.html, that page.py puts together: read from files alone."""
