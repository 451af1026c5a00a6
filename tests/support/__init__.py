"""What several test modules share and import; what they are given as a fixture stands in conftest.py."""
