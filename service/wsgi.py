"""The application as gunicorn serves it: settings from the environment, and the models loaded."""

import sys

import torch

from service import create_app, create_engine, settings
from service.errors import ConfigurationError
from service.model.repository import Repository
from service.valkey import OwnValkey

# One thread in the process that the workers are forked from: a thread pool does not survive a fork.
torch.set_num_threads(1)

try:
    configured = settings.read()
    own_valkey = None if configured.redis_url else OwnValkey(configured.data_dir)
    engine = create_engine(
        configured,
        Repository.load(configured.model_folders, trust_pt2=configured.trust_pt2),
        own_valkey.url if own_valkey else str(configured.redis_url),
    )
except ConfigurationError as error:
    sys.exit(f"carryover: {error}")

app = create_app(configured, engine)
