"Run notebooks top to bottom and keep their outputs (the documentation shows stored outputs)"
import argparse, base64, io, os, subprocess, sys, time
from pathlib import Path

os.environ.setdefault('TQDM_DISABLE', '1'); os.environ.setdefault('OMP_NUM_THREADS', '1')

def smaller(png:str, limit:int=40_000)->str:
    "Store a large picture with 256 colours, and at most 1000 px wide: notebooks stay below 500 KB"
    from PIL import Image
    raw = base64.b64decode(png)
    if len(raw)<=limit: return png
    im = Image.open(io.BytesIO(raw)).convert('RGB'); buf = io.BytesIO()
    if im.width>1000: im = im.resize((1000, round(im.height*1000/im.width)), Image.Resampling.LANCZOS)
    im.quantize(256, Image.Quantize.MEDIANCUT).save(buf, 'PNG', optimize=True)
    return base64.b64encode(buf.getvalue()).decode() if len(buf.getvalue())<len(raw) else png


def run(fn:Path, flags:set):
    "Execute one notebook in this process and write its outputs back"
    from execnb.shell import CaptureShell
    from fastcore.nbio import write_nb
    from fastcore.xtras import working_directory
    from nbdev.process import NBProcessor
    skip = {'slow', 'gpu'} - flags
    nb = NBProcessor(fn, rm_directives=False, process=True).nb
    def no_eval(c):
        d = getattr(c, 'directives_', {}) or {}
        return c.cell_type!='code' or 'nbdev_export(' in c.source or d.get('eval:', [''])[0].lower()=='false' or bool(skip & d.keys())
    shell = CaptureShell(fn)
    with working_directory(fn.parent): shell.run_all(nb, exc_stop=True, preproc=no_eval)
    for c in nb.cells:
        if c.cell_type=='code': c.outputs = [o for o in c.get('outputs', []) if o.get('name')!='stderr']
        for o in c.get('outputs', []):
            if 'image/png' in o.get('data', {}): o['data']['image/png'] = smaller(''.join(o['data']['image/png']))
    write_nb(nb, fn)
    err = next((o for c in nb.cells for o in c.get('outputs', []) if o.get('output_type')=='error'), None)
    if err: raise SystemExit(f'{fn}: {err["ename"]}: {err["evalue"]}\n' + '\n'.join(err.get('traceback', [])))

if __name__=='__main__':
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument('paths', nargs='*', default=['nbs'], help='notebooks or folders')
    ap.add_argument('--flags', default='', help='also run cells marked with these words, for example "slow gpu"')
    a = ap.parse_args()
    fns = [f for p in a.paths for f in ([Path(p)] if Path(p).is_file() else sorted(Path(p).rglob('*.ipynb')))]
    for fn in [f.resolve() for f in fns if '.ipynb_checkpoints' not in f.parts]:
        t = time.time()
        if len(fns)==1: run(fn, set(a.flags.split()))
        else: subprocess.run([sys.executable, __file__, str(fn), '--flags', a.flags], check=True)   # a fresh process each: no leaks
        if len(fns)==1: print(f'{fn.name}: {time.time()-t:.1f} s')
