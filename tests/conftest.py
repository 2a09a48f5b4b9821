"What all tests share."
import os

os.environ.setdefault('OMP_NUM_THREADS', '1')   # before torch: workers side by side, and forked children, must not wait for one another's threads

import pytest


def pytest_collection_modifyitems(items):
    "Tests marked `gpu` need a CUDA device."
    import torch
    if torch.cuda.is_available(): return
    for item in items:
        if 'gpu' in item.keywords: item.add_marker(pytest.mark.skip(reason='no CUDA device here'))


@pytest.fixture(autouse=True)
def same_threads():
    "A test that changes the number of threads does not slow down those after it."
    yield
    import torch
    if torch.get_num_threads()!=int(os.environ['OMP_NUM_THREADS']): torch.set_num_threads(int(os.environ['OMP_NUM_THREADS']))
