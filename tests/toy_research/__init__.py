"""A separate research package, as a user writes it to train something else with `ignite_trainer`.

It stands outside every trusted package, so protocols that name it need `--trust toy_research`.
"""
