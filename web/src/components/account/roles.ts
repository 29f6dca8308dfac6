// The roles of accounts, in the order in which they are offered.
import type { Role } from '../../lib/types'

export const ROLES: Role[] = ['patient', 'clinician', 'admin']
