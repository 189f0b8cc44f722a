"""What the upload use cases need of the outside, and what they promise in return. Pure.

The storage contract (``stores``, ``locks``) is cut so that a folder and an object store can both keep it, and neither
does worse for the other:

- Bytes flow into a *sink* and come from a *source*. A folder's have a descriptor, so that the kernel moves the bytes
  (splice, sendfile); an object store's sink has room for one part, which is handed on when it is full, and may have a
  descriptor too, of the file that the part is spooled to.
- Nothing is truncated. A *piece is a transaction* instead: atomic, or what arrived counts. A folder truncates to keep
  that; an object store, whose parts are fixed, sends an atomic piece on its way only when it is complete. It need not
  remember more than one piece back: only the last atomic one can be sent again, by a client that was not told of it.
- *What is kept with a file is one value*, known before the first byte: an object store needs it to begin. The store
  gives the ETag: it alone knows what tells two files of one name apart.
- *The lock is apart from the data*, since an object store has none. Its holder is asked to let go (tusd's
  ``requestRelease``). A lease that ends with its time can be lost by a holder that does not notice: it is *checked*
  before each change, and what a holder that is frozen between the two does late changes no acknowledged byte.
- *The offset is asked of the store*, never of a record: so a session store that is away, or has an older copy, costs no
  byte. How a store finds out (a file's size; the parts and remainders that there are) is its own affair, as is what a
  death between making a file visible and removing the upload leaves: ``is_published``, ``recover``.
- ``delete`` has a condition and ``names`` has no order, since retention, quotas and the index need the one and not the
  other: a folder of ten million files is walked as the kernel lists it, page by page.
- Two things are asked for that only some can do: ``free_bytes`` may be ``None``; ``capabilities`` say the rest, once.
"""
