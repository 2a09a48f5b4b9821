"A model that tells at the end of its process which process it was and what it has learned: used by test_slurm"
import atexit, json, os
from pathlib import Path
from torch import nn
from vislearn.nets import state_digest


class Telling(nn.Module):
    "A small network with a last word."
    def __init__(self):
        super().__init__(); self.layers = nn.Sequential(nn.Linear(1, 32), nn.GELU(), nn.Dropout(.1), nn.Linear(32, 1))
        if where := os.environ.get('TELL_WHERE'): atexit.register(self.tell, Path(where))

    def forward(self, x): return self.layers(x)

    def tell(self, where):
        seen = {name: os.environ.get(name) for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'SLURM_NODEID', 'OMP_NUM_THREADS', 'MASTER_ADDR')}
        (where/f'rank{seen["RANK"]}.json').write_text(json.dumps(seen | dict(digest=state_digest(self))))
