"""A research package of its own: what a user writes to train something else with `ignite_trainer`.

It stands outside every trusted package, so protocols that name it need `--trust toy_research`.
"""
