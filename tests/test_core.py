"The core from outside: what a process says about itself"
import subprocess, sys
import numpy as np


def test_peak_memory_is_that_of_the_process_itself():
    "Not that of the program that started it, which `ru_maxrss` counts on Linux."
    held = np.ones(100_000_000); code = 'from vislearn.core import peak_mb; print(peak_mb())' # 800 MB here
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True); assert 40 < float(out.stdout) < 600 and held[-1]==1
    more = subprocess.run([sys.executable, '-c', 'import numpy as np; held = np.ones(90_000_000); del held; ' + code], capture_output=True, text=True, check=True); assert float(more.stdout) > 680
