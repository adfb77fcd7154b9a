# What plan_cache.pyx needs of autograd.pyx.
cdef tuple versions(tuple given)
cdef tuple counted(tuple given)
