"""Settings of the whole suite, made before torch is imported."""

import os

# The nets of the tests are tiny: several threads would only wait for one another, most of all when tests run in
# parallel. Processes that tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
