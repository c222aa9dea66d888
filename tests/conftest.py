"""Settings for all tests."""

import hypothesis
import torch

# The machines that run these tests have few cores: threads of one operation only get in the way.
torch.set_num_threads(1)
# How long an example takes says nothing: the first one compiles, and others wait for a core.
hypothesis.settings.register_profile("zapex", deadline=None)
hypothesis.settings.load_profile("zapex")
