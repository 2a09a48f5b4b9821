"What all tests share."
import os

os.environ.setdefault('OMP_NUM_THREADS', '1')   # before torch: workers side by side, and forked children, must not wait for one another's threads
