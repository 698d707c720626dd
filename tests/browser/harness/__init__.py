"""Real notebook hosts, driven in a real browser. Nothing here needs a network."""
