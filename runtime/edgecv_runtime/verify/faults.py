"""What leaves its trace in a file, a record or a backend: what each fault is called, and what to do about it.

There is nothing to simulate here; `blame` and `sealed` tell them by what they leave behind.
"""

from __future__ import annotations

from edgecv_runtime.tasks.reading import Fault

LOWER_PRECISION = Fault("lower precision", "run in float32, or accept it after 'edgecv verify --data'")
UNKNOWN_INPUT = Fault("unknown preprocessing", "compare your steps with bundle.json's 'preprocess', one by one")

# What leaves its trace in a file or a backend.
SCALE = Fault("corrupted quantization scale", "quantize again, or take the variant from a sound copy of the bundle")
NORMALIZATION = Fault("wrong mean or scale in the graph", "export again; normalization belongs to the trained network")
ONE_LAYER = Fault("damaged weights", "take the file from a sound copy of the bundle, or export again")
OTHER_TRAINING = Fault(
    "weights of another training", "export the checkpoint that golden.npz was made with, or export both"
)
PRECISION = Fault(
    "another precision than claimed", "set the backend's precision to float32, or ask for the other by name"
)
STALE = Fault("stale engine", "delete the backend's cache of compiled models; it belongs to another file")
BACKEND = Fault("the backend computes it otherwise", "use another backend or version; report the node to its makers")
OTHER_MODEL = Fault("another model answers", "give the address of the model that was made of this bundle's file")
UNDECIDED = Fault(
    "quantization or the backend, which cannot be told",
    "try the other backend; if it is no better, quantize with more images",
)
NOT_FINITE = Fault("NaN or infinite outputs", "look for overflow in the node named; run in float32")
OTHER_FILE = Fault("another network", "export again: the file computes something else than what was exported")
QUANTIZATION = Fault("quantization loses too much", "leave the node named in float, or quantize with more images")
INTERFACE = Fault("another input or output", "export again: backends disagree on what they cast")
RECORD = Fault("altered preprocessing record", "restore bundle.json's 'preprocess', or export again")
LABELS = Fault("altered labels", "restore bundle.json's 'labels', or export again")
