"""The soak: a pool with every option on, used and ill-treated for as long as one is told, and watched from outside.

`run` starts a server behind a proxy and a process of its own that holds nothing but the pool and its users (`subject`).
It makes the `weather`, reads the subject's figures (`watch`), lets everything come to rest now and then, and says
whether the figures are flat (`verdict`), with a figure (`plot`) and a page (`page`).
"""
