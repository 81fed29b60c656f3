"""A real Nova on one machine, to hold the driver and the simulator against.

    make lab-up        # RabbitMQ, MariaDB, Keystone, Placement, Nova, and four hypervisors with guests that are files
    make lab-status
    make test-nova     # uses the lab that is up, else one of its own
    make lab-down

Real: everything between a client's request and the compute driver. Not real: the hypervisor below it (`virt`), and Glance, Neutron
and Cinder (`stand_ins`). Each hypervisor is a process group behind a power switch; `host_main` is what runs on it.
"""
