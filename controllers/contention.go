package controllers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

const (
	// undosAtOnce is how often somebody else's changes of a policy are undone at once; after that it is a contest.
	undosAtOnce = 10
	// firstPause and lastPause bound the time from one undo to the next in a contest; it doubles each time.
	firstPause, lastPause = time.Second, 30 * time.Second
	// calm is how long a policy has to be left alone for a contest to be over.
	calm = time.Minute
)

// contests are the policies that somebody else changes again and again. Two controllers who undo each other's changes
// would keep the API server busy for ever, so these changes are undone later and later. Nothing else waits: neither the
// first changes, nor other policies, nor a new declaration.
type contests struct {
	mutex    sync.Mutex
	policies map[contested]*contest
}

// contested is a policy of one application or profile. A new one of the same name inherits no contest: its predecessor's
// policies went with it. What a policy says of its owner, somebody else can change.
type contested struct {
	types.NamespacedName
	owner types.UID
}

func keyOf(policy *networkingv1.NetworkPolicy, owner types.UID) contested {
	return contested{client.ObjectKeyFromObject(policy), owner}
}

// contest is about one policy.
type contest struct {
	undos int
	// last is when a change was undone, and next when the next one may be.
	last, next time.Time
	// by is who was seen to change it, when it became a contest; empty if it was not seen.
	by string
}

func (c *contest) isOn(now time.Time) bool { return c.undos > undosAtOnce && now.Sub(c.last) < calm }

// due is a plan without the undoing of what is to wait. What is for when every tier has its policy, the default deny and
// deletions, waits with it.
func (c *contests) due(owner types.UID, plan isolation.Plan, now time.Time) isolation.Plan {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	var steps [][]isolation.Change
	waiting := false
	for _, step := range plan.Steps {
		due := slices.DeleteFunc(slices.Clone(step), func(change isolation.Change) bool {
			if waiting && (change.Operation == v1alpha1.OperationDelete || change.Policy.Labels[isolation.LabelTier] == "") {
				return true
			}
			contest := c.policies[keyOf(change.Policy, owner)]
			return change.Undoes && contest != nil && contest.isOn(now) && now.Before(contest.next)
		})
		steps = append(steps, due)
		waiting = waiting || len(due) < len(step)
	}
	plan.Steps = steps
	return plan
}

// identify looks up who changed what is about to be undone once too often. Afterwards there may be no trace of them.
func (c *contests) identify(owner types.UID, plan isolation.Plan, who func(*networkingv1.NetworkPolicy) string) {
	for _, change := range plan.Changes() {
		if change.Undoes && c.of(keyOf(change.Policy, owner)).undos == undosAtOnce {
			by := who(change.Policy)
			c.mutex.Lock()
			if contest := c.policies[keyOf(change.Policy, owner)]; contest != nil {
				contest.by = by
			}
			c.mutex.Unlock()
		}
	}
}

// of is the contest about a policy, as it is now.
func (c *contests) of(policy contested) contest {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if found := c.policies[policy]; found != nil {
		return *found
	}
	return contest{}
}

// undone notes which of what was written was put back.
func (c *contests) undone(owner types.UID, written []isolation.Change, now time.Time) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	maps.DeleteFunc(c.policies, func(_ contested, contest *contest) bool { return now.Sub(contest.last) >= calm })
	for _, change := range written {
		if !change.Undoes {
			continue
		}
		key := keyOf(change.Policy, owner)
		if c.policies == nil {
			c.policies = map[contested]*contest{}
		}
		if c.policies[key] == nil {
			c.policies[key] = &contest{}
		}
		contest := c.policies[key]
		contest.undos++
		contest.last, contest.next = now, now.Add(pause(contest.undos))
	}
}

// pause is how long the next undo has to wait after so many.
func pause(undos int) time.Duration {
	d := firstPause
	for ; undos > undosAtOnce+1 && d < lastPause; undos-- {
		d *= 2
	}
	return min(d, lastPause)
}

// on says which of an owner's policies are contested, and after what time there is more to do for them.
func (c *contests) on(owner types.UID, policies []*networkingv1.NetworkPolicy, now time.Time) (found []string, wait time.Duration) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	for _, policy := range policies {
		contest := c.policies[keyOf(policy, owner)]
		if contest == nil || !contest.isOn(now) {
			continue
		}
		by := "somebody"
		if contest.by != "" {
			by = fmt.Sprintf("%q (its field manager)", contest.by)
		}
		found = append(found, fmt.Sprintf("NetworkPolicy %s/%s is changed again and again by %s", policy.Namespace, policy.Name, by))
		again := contest.next
		if !now.Before(again) {
			again = contest.last.Add(calm)
		}
		if wait == 0 || again.Sub(now) < wait {
			wait = again.Sub(now)
		}
	}
	return found, wait
}

// contendedMessage says what is done about contests. It has no numbers that change: each would be a status write.
func contendedMessage(contended []string) string {
	return strings.Join(contended, "\n") + fmt.Sprintf(
		"\nits changes are undone later and later, up to %s after one another; the contest is over when it is left alone for %s", lastPause, calm)
}

// lastToChange is the field manager who was the last but us to change a policy, by what the API server has.
func lastToChange(ctx context.Context, live client.Reader) func(*networkingv1.NetworkPolicy) string {
	return func(policy *networkingv1.NetworkPolicy) string {
		var found networkingv1.NetworkPolicy
		if err := live.Get(ctx, client.ObjectKeyFromObject(policy), &found); err != nil {
			return "" // it only words a message
		}
		manager, last := "", time.Time{}
		for _, entry := range found.ManagedFields {
			if entry.Manager != name && entry.Time != nil && !entry.Time.Time.Before(last) {
				manager, last = entry.Manager, entry.Time.Time
			}
		}
		return manager
	}
}
