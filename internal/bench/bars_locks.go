package main

// lockBars are what dkv's locks, transactions and watches have to reach, as ratios
// within each round wherever one can be formed.
var lockBars = []bar{
	{"lock and unlock of one caller, p50 / etcd's", "×", false, 0.8, 0.5, beside(lockName(1), p50Micros)},
	{"lock and unlock by 128 callers, a lock each / etcd's", "×", true, 6, 12, beside(lockName(128), opsPerSec)},
	{"64 wait for one lock: hand-over, p50 / a lone write's", "×", false, 2, 1.2, toItself(handoverName(64), p50Micros, loneP50Micros)},
	{"a transaction of 10 writes, p50 / 10 writes at once", "×", false, 1.2, 1.2, toItself(txnName, p50Micros, setsP50Micros)},
	{"event of a watch, p50 after Set has returned (0: before)", "µs", false, 100, 30, ofCluster(watchName, lateP50Micros)},
	{"writes of 128 callers beside 1,000 watchers / without", "×", true, 0.95, 0.95, toItself(watchedName(1000), opsPerSec, opsUnwatched)},
}

// toItself compares two metrics of a workload of dkv.
func toItself(workload, metric, base string) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) {
		return r.ratio(figure{workload, clusterSubject, metric}, figure{workload, clusterSubject, base})
	}
}
