"""The soak: a pool with every option on is used under faults for as long as wanted, and must stay as it was.

The `controller` starts a server behind a proxy, and a process of its own, the `target`, which holds the pool and its
users and nothing else: threads that borrow (`workload`) and threads that do everything else (`operations`). The
controller makes `faults`, samples the target's figures (`process`), and stops everything at checkpoints, so that their
figures can be compared. The `checker` says whether the figures are flat; `plot` and `page` show them.
"""
