"""Settings for all tests."""

import torch

# The machines that run these tests have few cores: threads of one operation only get in the way.
torch.set_num_threads(1)
