/* What the files of this folder share. */
#pragma once

#include "dev/pci/pci.h"

/* host.c */
struct board *pci_host_board(struct pci_host *h);
/* BARs on the bus where their registers say; f's off it.  Take host->lock. */
void pci_host_remap(struct pci_host *h);
void pci_host_unmap(struct pci_host *h, struct pci_func *f);

/* func.c; host->lock held.  True when the bus changed. */
bool pci_func_remap(struct pci_func *f);
void pci_func_unmap(struct pci_func *f);
/* n: 1, 2 or 4 and aligned; off below 4096.  dev->lock held too. */
uint32_t pci_func_read(struct pci_func *f, unsigned off, unsigned n);
void pci_func_write(struct pci_func *f, unsigned off, unsigned n, uint32_t v);

/* msix.c */
/* The control word or the command register changed: send what waited. */
void pci_msix_flush(struct msix *m);
