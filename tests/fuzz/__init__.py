"""Fuzzers: ``python -m tests.fuzz`` (``make fuzz``) for as long as one likes, and a short run of each in ``test_fuzz``.

Three kinds: ``pure`` feeds the parts without I/O, guided by coverage; ``protocol`` sends requests of every dialect,
mutated, to a real server; ``smuggling`` attacks real proxies in front of one, with the shipped configurations. Every
run follows from its seed. A failure is printed with the smallest input that shows it.
"""
