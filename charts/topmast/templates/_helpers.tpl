{{- /* Names: the release's name where it says topmast already. */}}
{{- define "topmast.fullname" -}}
{{- if contains "topmast" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-topmast" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "topmast.keysSecret" -}}
{{ .Values.gateway.keys.existingSecret | default (printf "%s-api-keys" (include "topmast.fullname" .)) }}
{{- end }}

{{- define "topmast.firstKeySecret" -}}
{{ include "topmast.fullname" . }}-first-key
{{- end }}

{{- define "topmast.sharedSecret" -}}
{{ .Values.sharedToken.existingSecret | default (printf "%s-shared-token" (include "topmast.fullname" .)) }}
{{- end }}

{{- /* Optional: without it nothing is woken and no usage exchanged, which is no reason to run nothing. */}}
{{- define "topmast.sharedVolume" -}}
- name: shared-token
  secret: {secretName: {{ include "topmast.sharedSecret" . }}, optional: true}
{{- end }}

{{- define "topmast.sharedMount" -}}
- {name: shared-token, mountPath: /etc/topmast/shared, readOnly: true}
{{- end }}

{{- /* Cluster-scoped names carry the namespace, so that two releases of one name do not meet. */}}
{{- define "topmast.clusterName" -}}
{{ .Release.Namespace }}-{{ include "topmast.fullname" . }}
{{- end }}

{{- /* image: (list $ .Values.images.operator) */}}
{{- define "topmast.image" -}}
{{- $root := index . 0 }}{{ $image := index . 1 }}
{{- with $root.Values.images.registry }}{{ trimSuffix "/" . }}/{{ end }}
{{- $image.repository }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end }}

{{- define "topmast.commonLabels" -}}
app.kubernetes.io/name: topmast
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* selector: (list $ "operator") */}}
{{- define "topmast.selector" -}}
app.kubernetes.io/name: topmast
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "topmast.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "topmast.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* The rest of a pod's spec that users place: (list $ .Values.operator "operator") */}}
{{- define "topmast.placement" -}}
{{- $root := index . 0 }}{{ $values := index . 1 }}{{ $component := index . 2 }}
{{- with $root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "topmast.selector" (list $root $component) | nindent 8 }}
{{- end }}
