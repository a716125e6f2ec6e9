"""The paper's tables and figures as sets of experiments: `python -m pdiff.paper 3c`.

`python -m pdiff.paper verdict` holds its claims against whole pipelines.

tables.yaml   the experiments of each table, and what the paper says; definitions reads it
experiments   a setting, its experiments: parameters, name, command
results       where results lie, and what the rows of a table have measured
runner        say what would run, run what is missing through DVC
launch        the same with Ray or SLURM, on many machines; worker is their half of it
render        results to CSV, Markdown and, with figures, pictures
memory        Table 13, which needs no experiment
verdict       do the paper's claims hold? Over whole pipelines, by `pdiff.novelty.claims`
fit           did the generator learn? Over whole pipelines
"""
