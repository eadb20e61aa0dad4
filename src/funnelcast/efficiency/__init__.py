"""Speed and memory of several models in one alternating run, each in a process of its own."""
