"""p-diff as a library: `PDiff` fits a generator to checkpoints, `audit` says what is new.

p = PDiff.fit(checkpoints, seed=0)
new = p.sample(200)
print(p.audit(new, net, loader))
"""
