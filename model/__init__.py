"""The networks: AudioCLIP, its ESResNeXt audio tower, their losses, weights and inputs."""

import os

from .storage.places import user_name

# torch names a cache folder after the user, so importing torchvision fails if the user has no name, as in
# `docker run --user 12345`.
os.environ.setdefault("USER", user_name())
