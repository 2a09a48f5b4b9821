"""Render nbdev's processed notebooks with pandoc, and check every link and anchor.

The published site is made by Quarto (nbdev_docs); this renders the same pages anywhere, without a network.
"""
import argparse, base64, html, os, re, shutil, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path

import nbformat, yaml
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs
from pypandoc import get_pandoc_path

proc, out, assets = Path('_proc'), Path('_site'), Path('tools/site')
option = re.compile(r'#\|\s*([\w-]+):?\s*(.*)')


def options(src):
    "Split the leading `#|` lines from the code."
    opts, lines = {}, src.splitlines()
    while lines and (m := option.match(lines[0])): opts[m[1]] = m[2].strip(); lines.pop(0)
    return opts, '\n'.join(lines).strip()


def fence(text, kind=''):
    "A code block that survives backticks inside it."
    ticks = '`'*max(3, 1+max([len(m) for m in re.findall('`+', text)], default=0))
    return f'{ticks}{kind}\n{text}\n{ticks}'


def output_md(o, fig, files):
    "Markdown of one stored output; images go to `files`."
    d = o.get('data', {})
    cell = lambda body: f'::: cell-output\n{body}\n:::'
    if o.output_type=='stream': return cell(fence(re.sub(r'\x1b\[[0-9;]*m', '', o.text).rstrip()))
    if 'image/png' in d:
        files[fig] = base64.b64decode(d['image/png'])
        w = o.get('metadata', {}).get('image/png', {}).get('width')
        return cell(f'![](FIGS/{fig}){{{f"width={w}px" if w else ".fig"}}}')
    if 'image/svg+xml' in d: return cell(f'```{{=html}}\n{d["image/svg+xml"]}\n```')
    if 'text/markdown' in d: return d['text/markdown']
    if 'text/html' in d: return cell(f'```{{=html}}\n{d["text/html"]}\n```')
    return cell(fence(d['text/plain'])) if 'text/plain' in d else ''


def cell_md(c, i, files):
    "Markdown of one cell."
    if c.cell_type!='code': return c.source if c.cell_type=='markdown' else ''
    opts, src = options(c.source)
    if opts.get('include')=='false': return ''
    res = []
    if src and opts.get('echo')!='false':
        code = fence(src, 'python')
        if 'code-fold' in opts:
            open_ = ' open' if opts['code-fold']=='show' else ''
            code = f'<details{open_}><summary>{opts.get("code-summary", "Code").strip(chr(34))}</summary>\n\n{code}\n\n</details>'
        res.append(code)
    if opts.get('output')!='false': res += [output_md(o, f'{i}-{j}.png', files) for j, o in enumerate(c.get('outputs', []))]
    return '\n\n'.join(filter(None, res))


def page(p):
    "Front matter, target path, markdown and images of one processed notebook."
    nb = nbformat.read(p, 4)
    fm = yaml.safe_load(nb.cells[0].source.strip().strip('-')) if nb.cells[0].cell_type=='raw' else {}
    dst, files = out/p.relative_to(proc).with_name(fm.get('output-file', p.stem+'.html')), {}
    return fm, dst, '\n\n'.join(filter(None, (cell_md(c, i, files) for i, c in enumerate(nb.cells)))), files


def nav(items, pages, cur):
    "The sidebar as nested lists."
    up, res = '../'*(len(cur.relative_to(out).parts)-1), ''
    for o in items:
        if isinstance(o, dict): res += f'<li><span>{o["section"]}</span>{nav(o["contents"], pages, cur)}</li>'
        else:
            fm, dst, *_ = pages[o]
            res += f'<li><a{" class=active" if dst==cur else ""} href="{up}{dst.relative_to(out).as_posix()}">{html.escape(fm.get("title", o))}</a></li>'
    return f'<ul>{res}</ul>'


def pandoc(md, *args):
    "Run pandoc on markdown."
    return subprocess.run([get_pandoc_path(), '-f', 'markdown', '--wrap=preserve', *args], input=md, text=True, check=True, capture_output=True).stdout


def write(page, pages, side, site):
    "Write one page and its figures."
    fm, dst, md, files = page
    figs, up = dst.with_name(dst.stem+'_files'), '../'*(len(dst.relative_to(out).parts)-1)
    figs.parent.mkdir(parents=True, exist_ok=True)
    if files: figs.mkdir()
    for f, b in files.items(): (figs/f).write_bytes(b)
    md = md.replace('FIGS/', figs.name+'/').replace(site['site-url'].rstrip('/')+'/', up)
    md = re.sub(r'\]\((?!https?:)([^)\s#]*/)?(?:\d\d_)?([\w-]+)\.ipynb(#[\w-]*)?\)', lambda m: f']({m[1] or ""}{m[2]}.html{m[3] or ""})', md)   # links between notebooks
    v = dict(up=up, nav=nav(side, pages, dst), site=site['title'], repo=site['repo-url'])
    m = dict(title=fm.get('title', dst.stem), description=fm.get('description', ''))
    dst.write_text(pandoc(md, '-t', 'html5', '-s', '--toc', '--toc-depth=3', '--mathml', '--template', str(assets/'page.html'),
        *[f'-V{k}={o}' for k, o in v.items()], *[f'-M{k}={o}' for k, o in m.items()]))


def build():
    "Write all pages to `_site`."
    shutil.rmtree(out, ignore_errors=True); out.mkdir()
    pages = {p.relative_to(proc).as_posix(): page(p) for p in sorted(proc.rglob('*.ipynb'))}
    site = yaml.safe_load((proc/'nbdev.yml').read_text())['website']
    side = yaml.safe_load(Path('_quarto.yml').read_text())['website']['sidebar']['contents']
    shutil.copy(assets/'style.css', out)
    for d in proc.rglob('images'): shutil.copytree(d, out/d.relative_to(proc), dirs_exist_ok=True)
    with ThreadPoolExecutor(2) as ex: list(ex.map(lambda p: write(p, pages, side, site), pages.values()))
    return pages


class Page(HTMLParser):
    "Anchors, links and text of one page."
    def __init__(self, f): super().__init__(); self.ids, self.links, self.text = set(), [], []; self.feed(f.read_text())
    def handle_starttag(self, t, a):
        a = dict(a); self.ids.add(a.get('id')); u = a.get('href') or a.get('src')
        if u and not re.match('https?:|mailto:|data:', u): self.links.append(u)
    def handle_data(self, d): self.text.append(d)


def check():
    "Broken links, missing anchors and left-over notebook syntax."
    pages, bad = {f.resolve(): Page(f) for f in out.rglob('*.html')}, []
    for f, p in pages.items():
        for u in p.links:
            t, _, h = u.partition('#'); t = (f.parent/t).resolve() if t else f
            if not t.exists() or (h and t in pages and h not in pages[t].ids): bad.append(f'{f.relative_to(out.resolve())}: broken link {u}')
        bad += [f'{f.name}: left-over {m}' for m in re.findall(r'^(?:#\| *\w+|:::.*)', ''.join(p.text), re.M)]
    return bad, sum(len(p.links) for p in pages.values())


def readme():
    "README.md from nbs/index.ipynb."
    cells = [c for c in nbformat.read('nbs/index.ipynb', 4).cells if not re.match(r'#\|\s*(hide|default_exp)', c.source)]
    md = '\n\n'.join(filter(None, (cell_md(c, i, {}) for i, c in enumerate(cells))))
    md = re.sub(r'\]\((?!https?:)([^)\s#]+\.ipynb|images/[^)\s]+)', r'](nbs/\1', md)
    return '<!-- made from nbs/index.ipynb by `make sync`; edit there -->\n\n' + pandoc(md, '-t', 'gfm')


if __name__=='__main__':
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument('--check', action='store_true', help='check every link and anchor, and that README.md is current')
    ap.add_argument('--readme', action='store_true', help='only write README.md from nbs/index.ipynb')
    a = ap.parse_args()
    if a.readme: Path('README.md').write_text(readme()); sys.exit()
    os.environ['TQDM_DISABLE'] = '1'
    shutil.rmtree(proc, ignore_errors=True)          # nbdev's cache misses changes in other modules
    refresh_quarto_yml(); proc_nbs(n_workers=2, force=True)
    n = len(build())
    bad, links = check()
    print(f'{n} pages in {out}/, {links} links and images checked, {len(bad)} broken', *bad, sep='\n')
    if a.check and Path('README.md').read_text()!=readme(): bad.append('README.md'); print('README.md is not what nbs/index.ipynb gives: run make sync')
    if a.check and bad: sys.exit(1)
