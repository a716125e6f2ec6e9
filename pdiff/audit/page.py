"""The page that `pdiff.audit.html` fills in: HTML and CSS; nothing needs a network or a script."""

from string import Template

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root {
  color-scheme: light dark;
  --page: #ffffff; --text: #1b1f24; --soft: #59636e; --line: #d5dae0; --box: #f5f7f9;
  --link: #0a58ca; --good: #1a7f37; --bad: #b42318; --open: #6b5b00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --text: #e4e7eb; --soft: #9aa4af; --line: #353b43; --box: #1d2127;
    --link: #79b0ff; --good: #57c27a; --bad: #ff8a80; --open: #e3c55c;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-padding-top: 1rem; }
body {
  margin: 0 auto; max-width: 72rem; padding: 1.5rem 1rem 4rem; background: var(--page);
  color: var(--text); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", sans-serif;
  overflow-wrap: anywhere;
}
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 0 0 .5rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
section { border-top: 1px solid var(--line); margin-top: 2.5rem; padding-top: 1.5rem; }
p { margin: .5rem 0; max-width: 46rem; }
a { color: var(--link); }
h2 a { color: var(--soft); text-decoration: none; font-weight: normal; }
nav ol { columns: 20rem; margin: .5rem 0; padding-left: 1.6rem; }
.question { font-size: 1.08rem; }
.soft { color: var(--soft); font-size: .92rem; }
.figure { background: #ffffff; border: 1px solid var(--line); border-radius: 6px;
  margin: 1rem 0; overflow-x: auto; padding: .5rem; }
.figure img { display: block; height: auto; margin: 0 auto; width: 100%; }
.table { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; max-height: 32rem;
  max-width: 100%; overflow: auto; width: fit-content; }
table { border-collapse: separate; border-spacing: 0; font-size: .86rem;
  font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: right;
  white-space: nowrap; }
tr:last-child > * { border-bottom: 0; }
thead th { background: var(--box); position: sticky; top: 0; vertical-align: bottom; z-index: 1;
  white-space: normal; min-width: 4.5rem; }
th:first-child, td:first-child, .text { text-align: left; }
tbody th { background: var(--page); font-weight: normal; left: 0; position: sticky; }
td.wide { min-width: 16rem; white-space: normal; }
thead th:first-child { left: 0; z-index: 2; }
.dot { border: 1px solid var(--soft); border-radius: 50%; display: inline-block; height: .65em;
  margin-right: .45em; width: .65em; }
.facts { display: grid; gap: .2rem 1.2rem; grid-template-columns: max-content minmax(0, 1fr); }
.facts dt { color: var(--soft); }
.facts dd { margin: 0; }
@media (max-width: 30rem) {
  .facts { grid-template-columns: minmax(0, 1fr); }
  .facts dd { margin-bottom: .4rem; }
}
.verdict { background: var(--box); border: 1px solid var(--line); border-radius: 6px;
  margin: 1rem 0; padding: .8rem 1rem; }
.verdict ul { list-style: none; margin: .5rem 0 0; padding: 0; }
.verdict li { border-top: 1px solid var(--line); padding: .5rem 0; }
.outcome { border: 1px solid; border-radius: 1em; font-size: .82rem; font-weight: 600;
  margin-right: .5rem; padding: .05rem .6rem; white-space: nowrap; }
.holds { color: var(--good); } .fails { color: var(--bad); } .open { color: var(--open); }
</style>
</head>
<body>
<header>
<h1>$title</h1>
$lead
$verdict
$headline
<h3>What was run</h3>
$facts
</header>
<nav aria-label="Contents">
<h3>Contents</h3>
<ol>
$contents
</ol>
</nav>
<main>
$sections
</main>
</body>
</html>
""")

SECTION = Template("""<section id="$anchor">
<h2>$title <a href="#$anchor" aria-label="Link to this section">#</a></h2>
<p class="question">$question</p>
$figures
<p><strong>How to read it.</strong> $reading</p>
$tables
<p class="soft"><strong>Definition.</strong> $definition <strong>Source.</strong> $source</p>
</section>""")
