"""The scoring service: from the bytes of a request to the bytes of its answer, in a process without PyTorch."""
