"""What all libraries are asked to train; it imports nothing, since each library lives in an environment of its own."""

from __future__ import annotations

BATCH, WIDTH, LEARNING_RATE = 1024, 18, 1e-3
HIDDEN, TOWER = (256, 128), (64,)
EXPERTS = 8  # of MMoE
LEVELS, OWN_EXPERTS, SHARED_EXPERTS = 2, 2, 2  # of PLE
ESMM_HIDDEN = (256, 128, 64)
MODELS = ("shared_bottom", "esmm", "aitm", "mmoe", "ple")
STEPS = ("click", "conversion")
