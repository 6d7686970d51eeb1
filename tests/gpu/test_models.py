"""Published weights give the original's numbers on the GPU, too: tests/real/test_models.py in GPU mode."""

from tests.real.test_models import test_outputs_and_inner_blobs, test_squeezenet_probabilities  # noqa: F401
