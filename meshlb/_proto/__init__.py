"""Generated from proto/ by proto/generate.py; for the demo, the test kit and tests only."""
