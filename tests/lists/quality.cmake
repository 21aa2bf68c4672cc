# What holds the tests themselves to account, and what core costs.
target_link_options(core_allocation_test PRIVATE
  -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=strdup,--wrap=posix_memalign)
