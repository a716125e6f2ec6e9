"""The paper's tables and figures as sets of experiments: `python -m pdiff.tables 3c`.

definitions   which experiments a table consists of, and what the paper says
experiments   parameters of an experiment, and where its results lie
runner        run what is missing, through DVC or as plain stages
estimate      how long that will take, from measured stages
render        results to CSV, Markdown and figures
"""
